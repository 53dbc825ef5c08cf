"""The machines as a stage sees them: RayBackend (ray_backend) places learners, samplers and reward workers, calls them
and replaces what died.
"""
