// Starts, also beyond a ceiling of spend: the server refuses one that has no more to spend, and starts it all the same for whoever
// insists.

import { ApiError, call, type ApiRequest } from "./api";

interface Question {
  message: string;
  /** What is sent when the answer is yes. */
  request: ApiRequest;
  answer: (insists: boolean) => void;
}

class Beyond {
  asked = $state.raw<Question | null>(null);

  ask(message: string, request: ApiRequest): Promise<boolean> {
    return new Promise((resolve) => {
      this.asked = {
        message,
        request,
        answer: (insists) => {
          this.asked = null;
          resolve(insists);
        },
      };
    });
  }
}

export const beyond = new Beyond();

/** Sends a request that starts something. Asks where only whoever insists is let through. */
export async function start<T>(request: ApiRequest): Promise<T> {
  try {
    return await call<T>(request);
  } catch (error) {
    if (!(error instanceof ApiError) || error.code !== "spend_ceiling_reached") throw error;
    const insisting = { ...request, headers: { ...request.headers, "rota-force": "true" } };
    if (!(await beyond.ask(error.message, insisting))) throw error;
    return await call<T>(insisting);
  }
}
