"""Text to fields to figures. Reads texts and counts; never imports a model file."""
