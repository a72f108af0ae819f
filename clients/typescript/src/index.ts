// A client of the API whose types are made of its document.

import createClient from "openapi-fetch";

import type { components, paths } from "./api.js";

export type Problem = components["schemas"]["Problem"];

/** Return a client; `token` gives an access token for each request, or none. */
export const flagon = (baseUrl: string, token?: () => string | Promise<string>) => {
  const client = createClient<paths>({ baseUrl });
  client.use({
    async onRequest({ request }) {
      if (token) request.headers.set("Authorization", `Bearer ${await token()}`);
      return request;
    },
  });
  return client;
};
