"""The Attester and the only place that runs kernels on plaintext. Trusted because measured."""
