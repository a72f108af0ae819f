// openid-client, a certified relying party that is not ours, used as its documents say.
// Reads what is registered from standard input, and prints one JSON object: for each
// scenario null, or what went wrong.
import assert from 'node:assert/strict'
import { text } from 'node:stream/consumers'
import { pathToFileURL } from 'node:url'

const client = await import(pathToFileURL(process.argv[2]).href)
const here = JSON.parse(await text(process.stdin))
const insecure = { execute: [client.allowInsecureRequests] }
const signed = { execute: [client.allowInsecureRequests, client.enableNonRepudiationChecks] }

// What a browser does: cookies, redirects, and forms that a person fills in.
class Browser {
  cookies = new Map()

  async fetch(url, body) {
    const answer = await fetch(url, {
      method: body ? 'POST' : 'GET',
      body,
      redirect: 'manual',
      headers: {
        cookie: [...this.cookies].map(([name, value]) => `${name}=${value}`).join('; '),
        accept: 'text/html',
      },
    })
    for (const line of answer.headers.getSetCookie()) {
      const [name, value] = line.split(';')[0].split('=')
      this.cookies.set(name, value)
    }
    return answer
  }

  // Follows redirects until a page of the provider or an address of the client.
  async go(url, body) {
    let at = new URL(url)
    for (let hops = 0; hops < 10; hops++) {
      if (at.origin !== new URL(here.issuer).origin) return { at }
      const answer = await this.fetch(at, body)
      body = undefined
      const onward = answer.headers.get('location')
      if (!onward) return { at, status: answer.status, page: await answer.text() }
      at = new URL(onward, at)
    }
    throw new Error('redirects without an end')
  }

  async submit({ at, page }, holding, typed) {
    const forms = page.match(/<form[^]*?<\/form>/g) ?? []
    const form = forms.find((one) => one.includes(holding))
    assert.ok(form, `no form with ${holding} at ${at}: ${heading(page)}`)
    const fields = new URLSearchParams()
    for (const [tag] of form.matchAll(/<input[^>]*type="hidden"[^>]*>/g)) {
      const value = tag.match(/value="([^"]*)"/)?.[1] ?? ''
      fields.set(tag.match(/name="([^"]*)"/)[1], unescaped(value))
    }
    for (const [name, value] of Object.entries(typed)) fields.set(name, value)
    return this.go(new URL(unescaped(form.match(/action="([^"]*)"/)[1]), at), fields)
  }

  async signIn(url) {
    const found = await this.go(url)
    if (!found.page) return found.at
    const { email, password } = here
    return (await this.submit(found, 'type="password"', { email, password })).at
  }
}

function heading(page) {
  const said = page.match(/<h1>[^]*?<\/h1>|role="alert"[^]*?<\/\w+>/g) ?? []
  return said.join(' ').replace(/<[^>]*>/g, '')
}

function unescaped(value) {
  return value.replace(/&#(\d+);/g, (_, code) => String.fromCharCode(code))
    .replaceAll('&lt;', '<').replaceAll('&gt;', '>')
    .replaceAll('&quot;', '"').replaceAll('&amp;', '&')
}

function discover(name, authentication, options = signed, metadata = here.secret) {
  return client.discovery(new URL(here.issuer), name, metadata, authentication, options)
}

const key = await crypto.subtle.importKey(
  'jwk', here.private_jwk, { name: 'ECDSA', namedCurve: 'P-256' }, false, ['sign'],
)
const assertion = () => client.PrivateKeyJwt({ key, kid: 'judge' })

async function signIn(config, { browser = new Browser(), dpop, push, ...parameters } = {}) {
  const verifier = client.randomPKCECodeVerifier()
  const state = client.randomState()
  const nonce = client.randomNonce()
  const asked = {
    redirect_uri: here.callback,
    scope: 'openid profile email offline_access reviews:write',
    code_challenge: await client.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
    state,
    nonce,
    ...parameters,
  }
  const url = push
    ? await client.buildAuthorizationUrlWithPAR(config, asked, { DPoP: dpop })
    : client.buildAuthorizationUrl(config, asked)
  const back = await browser.signIn(url)
  const tokens = await client.authorizationCodeGrant(config, back, {
    pkceCodeVerifier: verifier,
    expectedState: state,
    expectedNonce: nonce,
    idTokenExpected: true,
    maxAge: parameters.max_age ? Number(parameters.max_age) : undefined,
  }, undefined, { DPoP: dpop })
  return { tokens, browser, claims: tokens.claims() }
}

const refused = (error) => (thrown) => {
  assert.equal(thrown.error, error, thrown.message)
  return true
}

const scenarios = {
  async discovery() {
    const found = (await discover('either')).serverMetadata()
    assert.equal(found.issuer, here.issuer)
    assert.ok(found.supportsPKCE())
  },

  async discovery_of_the_authorization_server() {
    const options = { ...insecure, algorithm: 'oauth2' }
    const config = await discover('either', undefined, options)
    assert.equal(config.serverMetadata().issuer, here.issuer)
  },

  async code_with_pkce_nonce_and_max_age() {
    const { tokens, claims } = await signIn(await discover('either'), { max_age: '600' })
    assert.equal(claims.email, here.email)
    assert.ok(claims.auth_time)
    assert.ok(claims.sid)
    assert.equal(tokens.token_type, 'bearer')
  },

  async client_secret_post() {
    await signIn(await discover('post', client.ClientSecretPost(here.secret)))
  },

  async client_secret_basic() {
    await signIn(await discover('basic', client.ClientSecretBasic(here.secret)))
  },

  async no_authentication() {
    await signIn(await discover('public', client.None(), signed, undefined))
  },

  async private_key_jwt() {
    const config = await discover('signs', assertion(), signed, undefined)
    await signIn(config)
    const own = await client.clientCredentialsGrant(config, { scope: 'jobs:read' })
    assert.equal(own.scope, 'jobs:read')
  },

  async client_credentials() {
    const config = await discover('basic', client.ClientSecretBasic(here.secret))
    const tokens = await client.clientCredentialsGrant(config, { scope: 'reviews:write' })
    assert.ok(tokens.access_token)
  },

  async id_token_by_es256() {
    const metadata = { client_secret: here.secret, id_token_signed_response_alg: 'ES256' }
    const method = client.ClientSecretBasic(here.secret)
    await signIn(await discover('curve', method, signed, metadata))
  },

  async consent() {
    const config = await discover('asks', client.ClientSecretBasic(here.secret))
    const browser = new Browser()
    const verifier = client.randomPKCECodeVerifier()
    const url = client.buildAuthorizationUrl(config, {
      redirect_uri: here.callback,
      scope: 'openid email',
      code_challenge: await client.calculatePKCECodeChallenge(verifier),
      code_challenge_method: 'S256',
    })
    const signed_in = await browser.go(url)
    const { email, password } = here
    const asked = await browser.submit(signed_in, 'type="password"', { email, password })
    const { at } = await browser.submit(asked, 'value="allow"', { choice: 'allow' })
    const tokens = await client.authorizationCodeGrant(config, at, {
      pkceCodeVerifier: verifier,
    })
    assert.equal(tokens.claims().email, here.email)
  },

  async userinfo() {
    const config = await discover('either')
    const { tokens, claims } = await signIn(config)
    const found = await client.fetchUserInfo(config, tokens.access_token, claims.sub)
    assert.equal(found.email, here.email)
    assert.equal(found.name, 'Ada Example')
  },

  async refresh_rotation_and_reuse() {
    const config = await discover('either')
    const { tokens, claims } = await signIn(config)
    const second = await client.refreshTokenGrant(config, tokens.refresh_token)
    assert.equal(second.claims().sub, claims.sub)
    assert.notEqual(second.refresh_token, tokens.refresh_token)
    await assert.rejects(
      client.refreshTokenGrant(config, tokens.refresh_token), refused('invalid_grant'),
    )
    await assert.rejects(
      client.refreshTokenGrant(config, second.refresh_token), refused('invalid_grant'),
    )
    await assert.rejects(client.fetchUserInfo(config, second.access_token, claims.sub))
  },

  async introspection_and_revocation() {
    const config = await discover('either')
    const { tokens, claims } = await signIn(config)
    for (const token of [tokens.access_token, tokens.refresh_token]) {
      const found = await client.tokenIntrospection(config, token)
      assert.equal(found.active, true)
      assert.equal(found.sub, claims.sub)
    }
    await client.tokenRevocation(config, tokens.refresh_token)
    for (const token of [tokens.access_token, tokens.refresh_token]) {
      assert.deepEqual(await client.tokenIntrospection(config, token), { active: false })
    }
  },

  async dpop() {
    const config = await discover('bound', client.ClientSecretBasic(here.secret))
    const dpop = client.getDPoPHandle(config, await client.randomDPoPKeyPair('ES256'))
    const { tokens, claims } = await signIn(config, { dpop })
    assert.equal(tokens.token_type, 'dpop')
    const found = await client.fetchUserInfo(config, tokens.access_token, claims.sub, {
      DPoP: dpop,
    })
    assert.equal(found.sub, claims.sub)
    const next = await client.refreshTokenGrant(config, tokens.refresh_token, undefined, {
      DPoP: dpop,
    })
    assert.equal(next.token_type, 'dpop')
    const me = new URL('/api/v1/me', here.issuer)
    const answer = await client.fetchProtectedResource(
      config, next.access_token, me, 'GET', undefined, undefined, { DPoP: dpop },
    )
    assert.equal(answer.status, 200)
    await assert.rejects(client.fetchUserInfo(config, next.access_token, claims.sub))
  },

  async dpop_of_a_public_client() {
    const config = await discover('public', client.None(), signed, undefined)
    for (const alg of ['ES256', 'Ed25519', 'RS256', 'PS256']) {
      const pair = await client.randomDPoPKeyPair(alg)
      const dpop = client.getDPoPHandle(config, pair)
      const { tokens } = await signIn(config, { dpop })
      const other = client.getDPoPHandle(config, await client.randomDPoPKeyPair(alg))
      await assert.rejects(
        client.refreshTokenGrant(config, tokens.refresh_token, undefined, { DPoP: other }),
        refused('invalid_grant'),
      )
      await client.refreshTokenGrant(config, tokens.refresh_token, undefined, { DPoP: dpop })
    }
  },

  async pushed_authorization_request() {
    const config = await discover('pushes', client.ClientSecretBasic(here.secret))
    await signIn(config, { push: true })
  },

  async everything_at_once() {
    const config = await discover('careful', assertion(), signed, undefined)
    const dpop = client.getDPoPHandle(config, await client.randomDPoPKeyPair('ES256'))
    const { tokens } = await signIn(config, { push: true, dpop })
    assert.equal(tokens.token_type, 'dpop')
  },

  async errors_name_their_issuer() {
    const config = await discover('either')
    await assert.rejects(
      signIn(config, { prompt: 'none' }),
      (thrown) => thrown.error === 'login_required' && thrown.cause.get('iss') === here.issuer,
    )
  },

  async silent_renewal() {
    const config = await discover('either')
    const first = await signIn(config)
    const again = await signIn(config, {
      browser: first.browser, prompt: 'none', id_token_hint: first.tokens.id_token,
    })
    assert.equal(again.claims.sub, first.claims.sub)
    assert.equal(again.claims.auth_time, first.claims.auth_time)
  },

  async device() {
    const config = await discover('public', client.None(), signed, undefined)
    const waiting = await client.initiateDeviceAuthorization(config, {
      scope: 'openid email',
    })
    const browser = new Browser()
    const { email, password } = here
    let page = await browser.go(waiting.verification_uri_complete)
    page = await browser.submit(page, 'type="password"', { email, password })
    if (page.page.includes('name="user_code"')) {
      page = await browser.submit(page, 'name="user_code"', { user_code: waiting.user_code })
    }
    await browser.submit(page, 'value="allow"', { choice: 'allow' })
    const tokens = await client.pollDeviceAuthorizationGrant(config, waiting)
    assert.equal(tokens.claims().email, here.email)
  },

  async logout_by_the_relying_party() {
    const config = await discover('either')
    const { tokens, browser } = await signIn(config)
    const url = client.buildEndSessionUrl(config, {
      post_logout_redirect_uri: here.goodbye,
      id_token_hint: tokens.id_token,
      state: 'bye',
    })
    const { at } = await browser.go(url)
    assert.equal(at.href, `${here.goodbye}?state=bye`)
    await assert.rejects(
      signIn(config, { browser, prompt: 'none' }), refused('login_required'),
    )
    await assert.rejects(
      client.refreshTokenGrant(config, tokens.refresh_token), refused('invalid_grant'),
    )
  },
}

const results = {}
for (const [name, run] of Object.entries(scenarios)) {
  try {
    await run()
    results[name] = null
  } catch (error) {
    results[name] = `${error.stack}\n${JSON.stringify(error.cause ?? error.error ?? '')}`
  }
}
console.log(JSON.stringify(results))
