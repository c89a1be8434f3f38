"""`demo`: the whole flow on this machine, played through a real client and narrated.

command     the command
scenes      what is played, step by step, and what has to hold at each
stage       the sandbox in this process, the proxy as the program it is, a directory for their files
client      curl, or a program of a dozen lines of urllib where there is no curl
timing      what the proxy adds to a request
narrator    text in 80 columns
"""
