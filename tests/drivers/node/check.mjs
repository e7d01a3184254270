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

/** Cancels what sleeps; a cancel that comes before its query hits nothing, which is nobody's fault. */
export async function cancelled(sleep, cancel) {
  for (let turn = 0; turn < 20; turn++) {
    const sleeping = sleep()
    // Before it is awaited: what is not awaited yet must not be told of as nobody's failure.
    const end = sleeping.then(() => null, (failure) => failure)
    await new Promise((resolve) => setTimeout(resolve, 200))
    cancel(sleeping)
    const failure = await end
    if (failure) return assert.equal(failure.code, '57014', String(failure.stack))
  }
  assert.fail('never cancelled')
}

export async function eventually(condition) {
  for (let i = 0; i < 3000; i++) {
    if (await condition()) return
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  assert.fail(`waited in vain for ${condition}`)
}
