"""`aha plan`: predicts from a run's settings what it will need and cost, without using a device. The tables of GPUs and
of known models lie beside the code.
"""
