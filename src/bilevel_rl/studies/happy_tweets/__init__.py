"""Tweets that people like: real human ratings, a small language model that writes tweets, and judges of its tweets.

Language models and encoder need the extra `lm`, so nothing is imported before it is asked for by its module.
"""
