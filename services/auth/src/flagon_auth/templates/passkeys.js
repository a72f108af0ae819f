(() => {
  "use strict";
  // Without this script, or without passkeys in the browser, the forms stay hidden and
  // every page can be used with what else it offers.
  if (!window.PublicKeyCredential || !navigator.credentials) return;

  const bytes = (text) => Uint8Array.from(
    atob(text.replace(/-/g, "+").replace(/_/g, "/")), (sign) => sign.charCodeAt(0));
  const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)))
    .replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  const known = (list) => (list || []).map((one) => ({ ...one, id: bytes(one.id) }));

  const optionsOf = (form) => {
    const options = JSON.parse(form.dataset.options);
    options.challenge = bytes(options.challenge);
    if (options.user) options.user = { ...options.user, id: bytes(options.user.id) };
    options.excludeCredentials = known(options.excludeCredentials);
    options.allowCredentials = known(options.allowCredentials);
    return options;
  };

  const answerOf = (credential) => {
    const given = credential.response;
    const response = { clientDataJSON: text(given.clientDataJSON) };
    if (given.attestationObject) {
      response.attestationObject = text(given.attestationObject);
      response.transports = given.getTransports ? given.getTransports() : [];
    } else {
      response.authenticatorData = text(given.authenticatorData);
      response.signature = text(given.signature);
      if (given.userHandle) response.userHandle = text(given.userHandle);
    }
    return JSON.stringify({
      id: credential.id, rawId: text(credential.rawId), type: credential.type,
      authenticatorAttachment: credential.authenticatorAttachment || undefined,
      clientExtensionResults: {}, response,
    });
  };

  for (const note of document.querySelectorAll("[data-without-passkeys]")) note.hidden = true;
  for (const form of document.querySelectorAll("form[data-passkey]")) {
    const button = form.querySelector("button");
    const place = form.querySelector("[data-says]");
    let waiting = null;

    const say = (error) => {
      const name = { NotAllowedError: "cancelled", InvalidStateError: "taken" }[error.name];
      place.textContent = form.dataset[name] || form.dataset.failed;
      place.hidden = false;
    };
    const send = (credential) => {
      form.elements.credential.value = answerOf(credential);
      HTMLFormElement.prototype.submit.call(form);
    };
    const ask = async (more) => {
      if (waiting) waiting.abort();
      const mine = waiting = new AbortController();
      const asked = { publicKey: optionsOf(form), signal: mine.signal, ...more };
      try {
        send(await navigator.credentials[form.dataset.passkey](asked));
      } catch (error) {
        if (mine.signal.aborted) return;
        waiting = null;
        if (!more) say(error);
      } finally {
        button.disabled = false;
      }
    };

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      place.hidden = true;
      button.disabled = true;
      ask();
    });
    form.hidden = false;
    // Passkeys are offered where the address is typed, if the browser can do that.
    const offer = PublicKeyCredential.isConditionalMediationAvailable;
    if ("autofill" in form.dataset && offer) {
      offer.call(PublicKeyCredential).then((can) => { if (can) ask({ mediation: "conditional" }); });
    }
  }
})();
