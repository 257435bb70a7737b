"""Inside the box: the code of the processes that hold a candidate, or its tests, and nothing else.

Called by jail/ alone, in interpreters started afresh; from outside only the words of its talk are used (wire, codec, PURE).
May import the standard library and this room: whatever is loaded here, a candidate may look at, change and turn to use.
Must never be in it: an expected output, a verdict, a secret that outlives one job, a path of the host.

candidate, whole_program    trusted until the program has begun, never after it
tests_within                tests in the program's own process: the weaker way
tests_apart, remote         tests in a process that no candidate shares; what comes over is data (codec), not code
"""
