"""Real evidence, collected elsewhere: appraise each piece and compare with what is known of it."""
