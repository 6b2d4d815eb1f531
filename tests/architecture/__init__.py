"""What must stay true of the code's shape: imports, sizes, names, words that may not appear."""
