"""deploy/signers, run as the proxy runs them: what they write is the signature.

The clouds' command lines are stubs with a key of ours. A stub takes the options
that the script has to give, as the tool's own reference has them, and no others.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from proxy.identity.certificate import load_public_certificate, verify_signature
from proxy.identity.proof.signer_command import CommandSigner
from tests.end_to_end.programs import COMMAND, ROOT, run_program

if TYPE_CHECKING:
    from pathlib import Path

SIGNERS: Final = ROOT / "deploy" / "signers"
INPUT: Final = b"header.claims"
PSS: Final = "-pkeyopt rsa_padding_mode:pss -pkeyopt rsa_pss_saltlen:digest"
# Signs a digest in a file, as a cloud does, with the padding that the algorithm names.
SIGN: Final = 'openssl pkeyutl -sign -inkey "$STUB_KEY" -pkeyopt digest:sha256 $padding -in "$digest"'
STUBS: Final = {
    # https://docs.aws.amazon.com/cli/latest/reference/kms/sign.html
    "aws": f"""
        [ "$1 $2 $3 $4" = "kms sign --key-id alias/clientapp" ] || exit 63
        [ "$5 $7 $8 $9" = "--message --message-type DIGEST --signing-algorithm" ] || exit 64
        shift 5; digest=${{1#fileb://}}; shift 4
        case $1 in
            RSASSA_PSS_SHA_256) padding='{PSS}' ;;
            RSASSA_PKCS1_V1_5_SHA_256) padding= ;;
            *) exit 65 ;;
        esac
        shift; [ "$*" = "--output text --query Signature" ] || exit 66
        {SIGN} | base64 --wrap 0; echo
    """,
    # https://cloud.google.com/sdk/gcloud/reference/kms/asymmetric-sign
    "gcloud": f"""
        [ "$1 $2 $3 $4" = "kms asymmetric-sign --quiet --version" ] || exit 63
        [ "$6 $7 $8 ${{10}}" = "--digest-algorithm sha256 --input-file --signature-file" ] || exit 64
        [ "$5" = projects/p/cryptoKeyVersions/1 ] || exit 65
        shift 8; digest=$(mktemp); openssl dgst -sha256 -binary "$1" >"$digest"
        padding=; [ "$STUB_KEY_ALGORITHM" = RS256 ] || padding='{PSS}'
        {SIGN} >"$3"; rm "$digest"; echo "Signed"
    """,
    # https://developer.hashicorp.com/vault/api-docs/secret/transit#sign-data
    "vault": f"""
        [ "$1 $2 $3 $4" = "write -field=signature transit/sign/clientapp/sha2-256 input=-" ] || exit 64
        [ "$6" = salt_length=hash ] || exit 65
        case $5 in
            signature_algorithm=pss) padding='{PSS}' ;;
            signature_algorithm=pkcs1v15) padding= ;;
            *) exit 66 ;;
        esac
        digest=$(mktemp); base64 --decode | openssl dgst -sha256 -binary >"$digest"
        printf 'vault:v1:%s' "$({SIGN} | base64 --wrap 0)"; rm "$digest"
    """,
}
CASES: Final = [("aws", "aws-kms", "alias/clientapp"), ("gcloud", "google-cloud-kms", "projects/p/cryptoKeyVersions/1")]
CASES.append(("vault", "vault-transit", "clientapp"))


@pytest.mark.parametrize("algorithm", ["PS256", "RS256"])
@pytest.mark.parametrize(("tool", "script", "key"), CASES)
def test_a_cloud_signs(
    tool: str, script: str, key: str, algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    made = run_program([COMMAND, "cert", "new"], directory=tmp_path)
    assert made.status == 0, made.stderr
    stub = tmp_path / "bin" / tool
    stub.parent.mkdir()
    stub.write_text(f"#!/bin/bash\nset -euo pipefail\n{STUBS[tool]}")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("STUB_KEY", str(tmp_path / "clientapp.key"))
    monkeypatch.setenv("STUB_KEY_ALGORITHM", algorithm)

    certificate = load_public_certificate(tmp_path / "clientapp.crt")
    signer = CommandSigner([str(SIGNERS / script), key], certificate)
    signature = asyncio.run(signer.sign(INPUT, algorithm))

    assert verify_signature(certificate, signature, INPUT, algorithm)


@pytest.mark.parametrize("script", sorted(SIGNERS.iterdir()), ids=lambda script: script.name)
def test_a_signer_is_a_posix_script_that_may_be_run(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    assert script.read_text(encoding="utf-8").startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n", script], check=True)
