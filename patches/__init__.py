"""How the method is wired into a ComfyUI MODEL. The only floor that knows ModelPatcher and transformer_options."""
