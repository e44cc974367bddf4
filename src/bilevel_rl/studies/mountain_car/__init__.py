"""Reward shaping on MountainCar: the study, and its figures."""
