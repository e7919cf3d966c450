"""Two labs of pictures, one for each wing of the pack, and what they share."""
