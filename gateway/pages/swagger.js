// Swagger UI over the merged document, with a sign-in for its "Try it out".

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", paint);
paint();

// Where people sign in is beside this page, under whatever name it was reached.
const at = (path) => new URL(path, window.location.href).href;

const addSignIn = (description) => {
  const scopes = {};
  for (const item of Object.values(description.paths)) {
    for (const operation of Object.values(item)) {
      const needed = operation.security?.[0]?.bearer;
      if (!needed) continue;
      operation.security.push({ "sign in": needed });
      for (const scope of needed) scopes[scope] = "";
    }
  }
  description.components.securitySchemes["sign in"] = {
    type: "oauth2",
    description: "Choose the scopes that you want to use, and sign in.",
    flows: {
      authorizationCode: {
        authorizationUrl: at("/oauth/authorize"),
        tokenUrl: at("/oauth/token"),
        scopes,
      },
    },
  };
  return description;
};

const answer = await fetch("/api/openapi.json");
const ui = window.SwaggerUIBundle({
  spec: addSignIn(await answer.json()),
  dom_id: "#swagger",
  deepLinking: true,
  docExpansion: "none",
  filter: true,
  displayOperationId: true,
  oauth2RedirectUrl: at("oauth2-redirect"),
  // Asks a server of others about the document; nothing leaves this place.
  validatorUrl: null,
});
ui.initOAuth({ clientId: "api-pages", usePkceWithAuthorizationCodeGrant: true });
