// An authorization server (oidc-provider) that asks for certificates in the handshake and binds its tokens to them (RFC 8705), and
// a resource that compares a token's cnf.x5t#S256 with the certificate of the connection that the token comes over.
// Arguments: directory with server.pem and ca.pem. Prints one line of JSON with both ports when it listens.
'use strict';
const crypto = require('node:crypto');
const fs = require('node:fs');
const https = require('node:https');
const path = require('node:path');
const { createRequire } = require('node:module');
const { pathToFileURL } = require('node:url');

const [directory] = process.argv.slice(2);
const resolve = createRequire(path.join(process.env.LIBRARIES_DIRECTORY, 'x.cjs')).resolve;
const pem = fs.readFileSync(path.join(directory, 'server.pem'));
const tls = { key: pem, cert: pem, ca: fs.readFileSync(path.join(directory, 'ca.pem')), requestCert: true };

function thumbprint(socket) {
  const shown = socket.getPeerX509Certificate();
  return shown && crypto.createHash('sha256').update(shown.raw).digest('base64url');
}

async function main() {
  const { default: Provider } = await import(pathToFileURL(resolve('oidc-provider')));
  const identity = https.createServer({ ...tls, rejectUnauthorized: false });
  await new Promise((listening) => identity.listen(0, '127.0.0.1', listening));
  const issuer = `https://localhost:${identity.address().port}`;
  const audience = 'https://orders.example.test';
  const { publicKey, privateKey } = crypto.generateKeyPairSync('rsa', { modulusLength: 2048 });
  const provider = new Provider(issuer, {
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: 'one', alg: 'RS256', use: 'sig' }] },
    clients: [{
      client_id: 'my-client', redirect_uris: [], response_types: [], grant_types: ['client_credentials'],
      token_endpoint_auth_method: 'tls_client_auth', tls_client_auth_san_dns: 'my-client.example.test',
      tls_client_certificate_bound_access_tokens: true,
    }],
    clientAuthMethods: ['tls_client_auth'],
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: () => ({ audience, scope: '', accessTokenFormat: 'jwt', accessTokenTTL: 600 }),
      },
      mTLS: {
        enabled: true, certificateBoundAccessTokens: true, tlsClientAuth: true,
        getCertificate: (ctx) => ctx.socket.getPeerX509Certificate(),
        certificateAuthorized: (ctx) => ctx.socket.authorized,
        certificateSubjectMatches: (ctx, property, expected) => property === 'tls_client_auth_san_dns'
          && ctx.socket.getPeerX509Certificate().subjectAltName === `DNS:${expected}`,
      },
    },
  });
  let tokens = 0;
  provider.on('grant.success', () => { tokens += 1; });
  provider.on('grant.error', (ctx, error) => console.error(error.message, error.error_description, error.error_detail));
  identity.on('request', provider.callback());

  const resource = https.createServer({ ...tls, rejectUnauthorized: false }, (request, response) => {
    const [header, claims, signature] = (request.headers.authorization || '').replace(/^Bearer /, '').split('.');
    const isSigned = crypto.verify('sha256', Buffer.from(`${header}.${claims}`), publicKey, Buffer.from(signature || '', 'base64url'));
    const { aud, cnf } = isSigned ? JSON.parse(Buffer.from(claims, 'base64url')) : {};
    const shown = thumbprint(request.socket);
    const isBound = isSigned && aud === audience && cnf && cnf['x5t#S256'] === shown;
    response.writeHead(isBound ? 200 : 401, isBound ? {} : { 'WWW-Authenticate': 'Bearer error="invalid_token"' });
    response.end(JSON.stringify({ bound: (cnf || {})['x5t#S256'], shown, tokens }));
  });
  await new Promise((listening) => resource.listen(0, '127.0.0.1', listening));
  console.log(JSON.stringify({ identity: identity.address().port, resource: resource.address().port }));
}

main();
