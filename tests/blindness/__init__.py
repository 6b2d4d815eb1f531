"""G1: what a coordinator, its network and its disk get to see of a job."""
