"""The lab's second model: SDXL with small numbers and SDXL's depth, trained on photographs.

For measurements only. It shares the demo model's classes (`demo.model`), text encoders and training, and belongs to no
node.
"""
