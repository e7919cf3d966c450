"""What is told of a run: its record, in words and in pictures. Knows neither ComfyUI nor how tokens are pruned."""
