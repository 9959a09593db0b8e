"""The verbs that do not belong to Lightning: one file each says what it takes, and names the function that runs it.

Nothing here imports torch, so that help and mistakes answer at once.
"""
