"""The lab's second model: SDXL with small numbers and SDXL's depth, trained on photographs.

It shares the demo model's classes (`demo.model`), text encoders, training and loader node. The lab measures on it, and
`python dev.py demo` draws with it.
"""
