"""Parse what an Attester sends, and believe nothing of it: appraisal decides what it is worth."""
