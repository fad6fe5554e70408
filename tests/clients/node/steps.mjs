// The steps of a client: run in the order in which they are written, the first that fails ends the program by its name.

const PATIENCE_MS = 30_000;
const steps = [];

/** Makes a function the next step. */
export const step = (title, action) => steps.push({ title, action });

/** Every step on one world, which they share. */
export async function run(world) {
  for (const { title, action } of steps) {
    try {
      await action(world);
    } catch (error) {
      console.error(error);
      console.error(`FAILED: ${title}`);
      process.exit(1);
    }
    console.log(`ok: ${title}`);
  }
}

/** What a condition gives once it holds. */
export async function eventually(what, condition) {
  const deadline = Date.now() + PATIENCE_MS;
  while (Date.now() < deadline) {
    const found = await condition();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`not within ${PATIENCE_MS} ms: ${what}`);
}
