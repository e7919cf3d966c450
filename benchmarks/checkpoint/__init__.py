"""The paper's table on a real checkpoint, through ComfyUI's HTTP interface, on one server or several."""
