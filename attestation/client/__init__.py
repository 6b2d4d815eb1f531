"""The Relying Party's SDK: appraises workers, seals tensors to them, verifies what comes back."""
