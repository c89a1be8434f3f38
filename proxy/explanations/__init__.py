"""What the product's codes, statuses and the messages of other programs mean, and what to do. Tables; does no I/O.

The one source of `explain`, of the advice on the admin site's page and of docs/troubleshooting.md. AADSTS codes, which are
Microsoft's, have a table of their own in `proxy.identity.aadsts`.

    entry      one explanation, and who can be at fault
    codes      what stands in an answer, an access line, a metric or the log
    statuses   HTTP statuses, the proxy's own and those that only an upstream sends
    symptoms   what curl, git, pip, Java and others print
    lookup     finds the entry for a code or for a pasted line
    page       docs/troubleshooting.md
"""
