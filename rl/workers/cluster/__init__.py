"""The machines as a stage sees them: RayBackend (ray_backend.py) places learners, samplers and rewards on a Ray
cluster, calls them and replaces those that died.
"""
