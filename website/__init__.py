"""What the documentation site is built from: the pages in docs/, pages made from the code, and files that pages link to.

__main__.py   writes all of them into build/pages, where MkDocs (or its successor) finds plain Markdown
commands.py   every command and option, from the command line itself
keys.py       every key of the configuration, from the settings and the example's comments
files.py      files of the project that pages link to, as pages
"""
