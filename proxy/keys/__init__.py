"""The files of certificates and private keys, in every form that common tools write. Knows nothing of who uses them.

```
forms.py      bytes of any form -> PEM or DER, or a sentence that names the form and the command that converts it
passwords.py  a password file, and what is odd about the password in it
pairs.py      a certificate with the private key that fits it
trusted.py    certificates to trust, as PEM
tls.py        a pair put into a TLS context, without a plain key on disk
```
"""
