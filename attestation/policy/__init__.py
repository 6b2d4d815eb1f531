"""The Appraisal Policy for Evidence: what a Relying Party accepts, written down and reviewed."""
