"""Runs the pack's nodes on tiny random models in configurations drawn at random, and checks what must always hold.

One seed is one configuration. Unlike the rest of the development tools it runs in the host's Python, with ComfyUI.
"""
