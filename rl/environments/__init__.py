"""Environments: what answers the model between its turns. The class or the tools by name (definition), calls that the
model writes (calls), one trajectory's object and its replay (episode), and the processes that can be killed
(processes).
"""
