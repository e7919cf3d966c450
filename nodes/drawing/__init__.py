"""Pictures of a run's record. Pillow and numpy are ComfyUI's own; they are loaded when something is drawn."""
