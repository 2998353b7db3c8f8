"""Studies that answer a question in the hours given: the one package that asks for runs and trains them.

`rounds` decides (which runs next, when a question counts as answered) on any pool of runs; it loads no torch.
"""
