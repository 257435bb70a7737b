"""The judge: what the host decides, out of reach of every candidate.

Called through rrk.sandbox (Judge, Job, Verdict). May import workers/, languages/ and the words for verdicts; nothing imports it
but rrk.sandbox itself, candidates and self_test. Must never be in it: a process started, a system call, a candidate's code.

judge       jobs in, verdicts out, in order: what runs again, what is spared (cache); entry: one job on its way
suites, suites_text, sides      what a problem's tests are, and on which side of the border they run
case_judge  programs judged by inputs and expected outputs; assert_counts: which asserts held; snippets: asserts of a model
fairness, calibration           what a program may take, so that a limit means the same everywhere
"""
