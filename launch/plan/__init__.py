"""`aha plan`: what a run will need and cost, predicted from its settings before a device is taken. The tables of GPUs
and of known models lie beside the code.
"""
