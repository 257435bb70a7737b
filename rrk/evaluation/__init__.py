"""How good are the samples, and how good is the ranking? Estimators, intervals, report cards, pictures.

Pure functions over plain numbers and rows; nothing here prints, reads files or needs torch.
`rrk eval` (rrk/commands/eval.py) is the command line over it.
"""
