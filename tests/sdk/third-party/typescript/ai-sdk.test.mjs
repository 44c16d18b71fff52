// The AI SDK's uploads of files and skills.

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { test } from 'node:test';

import { createAnthropic } from '@ai-sdk/anthropic';
import Anthropic from '@anthropic-ai/sdk';
import { uploadFile, uploadSkill } from 'ai';

const { ROTA_BASE_URL: url, ROTA_KEY: key } = process.env;
const provider = createAnthropic({ baseURL: `${url}/v1`, apiKey: key });
const official = new Anthropic({ baseURL: url, apiKey: key });

test('a file', async () => {
  const data = new TextEncoder().encode('hello');
  const made = await uploadFile({ api: provider, data, filename: 'notes.txt', mediaType: 'text/plain' });
  assert.deepEqual([made.filename, made.byteSize, made.mediaType], ['notes.txt', 5, 'text/plain']);
  assert.equal((await official.beta.files.retrieveMetadata(made.providerReference.anthropic)).filename, 'notes.txt');
});

test('a skill', async () => {
  const text = '---\nname: adding\ndescription: Adds numbers.\n---\nAdd them.\n';
  const files = [{ path: 'adding/SKILL.md', data: { type: 'text', text } }];
  const displayTitle = `adding ${randomUUID()}`;
  const made = await uploadSkill({ api: provider, files, displayTitle });
  assert.deepEqual([made.displayTitle, made.name, made.description], [displayTitle, 'adding', 'Adds numbers.']);
});
