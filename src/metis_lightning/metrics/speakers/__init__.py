"""Speaker encoders for the speaker similarity."""
