// oidc-provider as the outside provider of people: one client, anybody may sign in.
// Arguments: path of the library, redirect URI, client id, client secret. Prints the issuer.

import { createServer } from "node:http";

const [library, redirectUri, clientId, clientSecret] = process.argv.slice(2);
const { default: Provider } = await import(library);

const server = createServer();
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: clientId,
      client_secret: clientSecret,
      redirect_uris: [redirectUri],
      grant_types: ["authorization_code"],
      response_types: ["code"],
    },
  ],
  // Any name signs in; one that begins with "unsure" has no verified address.
  findAccount: (_context, sub) => ({
    accountId: sub,
    claims: () => ({
      sub,
      email: `${sub}@judge.test`,
      email_verified: !sub.startsWith("unsure"),
      name: `Judge ${sub}`,
    }),
  }),
  claims: { email: ["email", "email_verified"], profile: ["name"] },
  pkce: { required: () => true },
  cookies: { keys: ["a key of this test alone"] },
});
server.on("request", provider.callback());
console.log(issuer);
