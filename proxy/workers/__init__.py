"""Several relay processes behind one control process, for `workers: 2` and more.

    control process                                     relay process, N of them
    ───────────────                                     ────────────────────────
    private keys, CA key, token sources, admin site     listeners (SO_REUSEPORT), relay, access log
         `control`  ◄──── frames over a socket pair ────►  `worker`
                          `messages`, `channel`            `tokens`, `contexts`: what the relay asks, answered from there

A relay process is started anew (not forked), so nothing of the control process' memory is in it: it never opens a key file and
never holds a key but those of the leaf certificates it presents. It gets access tokens and leaves over its socket pair.
"""
