"""Who a hello speaks for: authenticators, asked in order.

    authentication   asks plugins and authenticators in turn; what the core calls
    anonymous        nobody in particular, where that is allowed
    static           users of the configuration, passwords hashed with scrypt
    tokens, keys     JSON Web Tokens, and the keys that verify them (a secret, a file, a URL)
    callout          a URL that gets the hello and decides
    grant            what an issuer may say about a session, checked
    fetch            one bounded HTTP request
"""
