"""What programs need in order to use the proxy: variables, CA bundles, trust stores, and the application's registration.

    variables      which runtime reads which variable (pure)
    shells         the variables as shells read them (pure)
    bundle         the system's roots and the interception CA in one file (files)
    trust_stores   how each platform and runtime is told to trust a CA (pure but for `install`)
    redirection    rules that lead connections to a transparent listener (pure)
    registration   the commands, Bicep and Terraform that register an application (pure)

It knows nothing of requests: the relay runs without it.
"""
