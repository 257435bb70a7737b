"""Languages: sandboxes/LANG.toml read, tools found, and the recipe carried out in a box.

Called by judge/, workers/provision and self_test. May import jail/box (the words for a command) and the words for verdicts.
Must never be in it: a language's name. What one language needs stands in its file, and a new one is a file and no code.

toolchains, recipe_file, toolchain      find, read and hold a language's file; tools: programs of this machine
recipes     write, compile, run, and ask for proof; what a silent exit, a missing proof or a dead control means
batches     artefacts prepared once, many programs compiled by one call
"""
