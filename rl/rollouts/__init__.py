"""Where samples come from: the samplers' groups are scored as they arrive and handed to training in order (queue), or a
teacher behind an endpoint answers (teacher).
"""
