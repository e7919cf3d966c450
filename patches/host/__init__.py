"""What every method needs of a run in ComfyUI."""
