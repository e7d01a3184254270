// What the programs share: running their parts in order, and waiting.

import assert from 'node:assert/strict'

export { assert }

export async function main(...parts) {
  for (const part of parts) {
    await part()
    console.log('ok', part.name)
  }
  console.log('done')
}

/** The SQLSTATE of the failure that is expected. */
export async function expect(code, promise) {
  const failure = await Promise.resolve(promise).then(
    () => assert.fail(`no ${code}`),
    (failure) => failure,
  )
  assert.equal(failure.code, code, String(failure.stack))
  return failure
}

export async function eventually(condition) {
  for (let i = 0; i < 3000; i++) {
    if (await condition()) return
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  assert.fail(`waited in vain for ${condition}`)
}
