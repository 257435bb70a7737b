"""The host's ends of the jail: processes that are started, spoken to, kept busy, replaced and killed.

Called by judge/ and by self_test. May import jail/box, inside/wire, languages/ and the words for verdicts; never judge/.
Must never be in it: Python that a candidate wrote, run or unpickled. What comes back is bytes of somebody who lies.

worker      one candidate at a time: a program by its recipe, Python with its tests apart or within, evidence
process     the processes behind a worker, and the talk with them
pool        threads that keep so many workers busy; provision: workers that have a language's tools; probe: what the jail holds
"""
