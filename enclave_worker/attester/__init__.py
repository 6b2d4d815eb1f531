"""The Attester: collects Evidence about this machine, one module per kind of hardware."""
