// A headless Chromium under orders, built on the npm package `playwright-core`.
//
// Reads one JSON order a line from standard input and answers each with one JSON line: `ok`, or
// `failed` with the reason. Every order names its `page`; a new name opens a new page, all of them in
// one profile. Waits are bounded by `timeout` in milliseconds. Ends when its input ends, and then
// takes the browser's profile away. Its arguments are the browser's path and more flags for it.
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

// `require` looks into NODE_PATH, where the packages live; `import` does not.
const { chromium } = createRequire(import.meta.url)('playwright-core');

const [executablePath, ...flags] = process.argv.slice(2);
const timeout = 20_000;
const profile = mkdtempSync(join(tmpdir(), 'roomcast-browser-'));
const tell = (event, fields = {}) => process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`);

const pages = new Map();
// What the pages complained about: a page that works logs no error.
const complaints = [];

async function open(context, name) {
  const page = await context.newPage();
  page.setDefaultTimeout(timeout);
  page.on('pageerror', (error) => complaints.push(`${name}: ${error.message}`));
  page.on('console', (message) => {
    // A connection that fails is reported by the browser, whatever the page makes of it.
    const isOurs = !message.text().startsWith('WebSocket connection to ');
    if (message.type() === 'error' && isOurs) complaints.push(`${name}: ${message.text()}`);
  });
  pages.set(name, page);
  return page;
}

async function obey(order, context) {
  const page = pages.get(order.page) ?? (await open(context, order.page));
  switch (order.do) {
    case 'goto':
      return void (await page.goto(order.url));
    case 'reload':
      return void (await page.reload());
    case 'close':
      pages.delete(order.page);
      return page.close();
    case 'fill':
      return page.fill(order.at, order.data);
    case 'click':
      return page.click(order.at);
    case 'press':
      return page.press(order.at, order.key);
    case 'await': {
      const found = page.locator(order.at).filter({ hasText: order.data });
      return found.first().waitFor();
    }
    case 'read':
      return page.evaluate(order.script);
    case 'size':
      return page.setViewportSize({ width: order.width, height: order.height });
    case 'dark':
      return page.emulateMedia({ colorScheme: order.dark ? 'dark' : 'light' });
    case 'still':
      return page.emulateMedia({ reducedMotion: order.still ? 'reduce' : 'no-preference' });
    // From here on time stands still in every page but for 'advance': a timer that also ran by
    // itself would now and then be ahead of the test.
    case 'clock':
      await context.clock.install();
      return context.clock.pauseAt(Date.now() + 1000);
    case 'advance':
      return context.clock.runFor(order.ms);
    case 'picture':
      return void (await page.screenshot({ path: order.path }));
    case 'complaints':
      return complaints.splice(0);
    default:
      throw new Error(`unknown order ${order.do}`);
  }
}

let context;
try {
  context = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    // Nothing but the pages' own traffic leaves this browser; root has no sandbox to give it.
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage', ...flags],
  });
  tell('ok');
  for await (const line of createInterface({ input: process.stdin })) {
    try {
      tell('ok', { value: await obey(JSON.parse(line), context) });
    } catch (error) {
      tell('failed', { reason: error.message });
    }
  }
} catch (error) {
  tell('failed', { reason: `chromium did not start: ${error.message}` });
  process.exitCode = 1;
} finally {
  await context?.close();
  rmSync(profile, { recursive: true, force: true });
}
