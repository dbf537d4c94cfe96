"""What does this text or image mean, as a vector? Towers, checkpoints, preprocessing, tokenising, `Encoder`."""
