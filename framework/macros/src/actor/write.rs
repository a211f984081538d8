//! What `#[actor]` writes: the traits, a message per method, the proxy, and their entries in the table.
//!
//! All of it stands in a `const _` block under names that no user's types have, since the types of signatures are read
//! there too. The types are generic over the actor for one reason: of a public type with a private parameter rustc says
//! that it is private, so they are as visible as the actor is, which an attribute on its `impl` block cannot see.

use proc_macro2::{Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Expr, Type};

use super::{Actor, Constructor, Method};
use crate::result::{Carried, carrier};
use crate::signature::Returns;

/// What is written for `actor`.
pub(super) fn actor(actor: &Actor) -> TokenStream {
    let actor_impl = actor_impl(actor);
    let spawn = spawn(actor);
    let proxy = proxy(actor);
    let messages = actor.methods.iter().map(|method| message(actor, method));
    quote! {
        #[allow(missing_docs, non_camel_case_types, private_interfaces, unreachable_pub, clippy::all, clippy::pedantic)]
        const _: () = {
            use ::mobula::__private as __mobula;
            use __mobula::{Fallback as _, Join as _, Light as _};
            #actor_impl
            #spawn
            #proxy
            #(#messages)*
        };
    }
}

fn actor_impl(actor: &Actor) -> TokenStream {
    let Actor { ty, keys, constructor, .. } = actor;
    let Constructor { signature, fallible, .. } = constructor;
    let proxy = proxy_name(actor);
    let (names, types) = (signature.names(), signature.types());
    let ctx = local("ctx");
    let (pass, dot_await) = (signature.pass(&ctx), signature.dot_await());
    let start = match fallible {
        None => quote!(::core::result::Result::Ok(<#ty>::new(#(#pass),*) #dot_await)),
        Some(output) => {
            let carrier = carrier(output, Carried::AsText);
            quote! {
                __mobula::Returned::into_result(<#ty>::new(#(#pass),*) #dot_await)
                    .map_err(<#carrier as __mobula::Explain<_>>::explain)
            }
        }
    };
    let concurrency = keys.concurrency.map(|n| quote!(const CONCURRENCY: usize = #n;));
    let (stopping, restart_policy, place) = (stopping(actor), restart_policy(actor), place(actor));
    let name = type_name(actor);
    let register = quote_spanned!(ty.span()=> __mobula::ActorEntry::of::<#ty>(#name));
    quote! {
        impl __mobula::Actor for #ty {
            type Args = (#(#types,)*);
            type Proxy = #proxy<#ty>;
            #concurrency
            #place

            async fn start(
                (#(#names,)*): Self::Args,
                #ctx: &__mobula::Context<Self>,
            ) -> ::core::result::Result<Self, __mobula::Error> {
                #start
            }
            #stopping
            #restart_policy
        }
        __mobula::inventory::submit! { #register }
    }
}

fn stopping(actor: &Actor) -> Option<TokenStream> {
    let stopping = actor.stopping.as_ref()?;
    let (reason, ctx) = (local("reason"), local("ctx"));
    let pass = stopping.takes_context.iter().map(|context| if *context { &ctx } else { &reason });
    let (ty, dot_await) = (&actor.ty, stopping.is_async.then(|| quote!(.await)));
    Some(quote! {
        async fn stopping(&mut self, #reason: &__mobula::ExitReason, #ctx: &__mobula::Context<Self>) {
            <#ty>::stopping(self, #(#pass),*) #dot_await
        }
    })
}

fn restart_policy(actor: &Actor) -> Option<TokenStream> {
    let keys = &actor.keys;
    if keys.max_restarts.is_none() && keys.restart_period_ms.is_none() && keys.restart.is_none() {
        return None;
    }
    let restarts_max = keys.max_restarts.map(|n| quote!(policy.intensity.restarts_max = #n;));
    let period =
        keys.restart_period_ms.map(|ms| quote!(policy.intensity.period = ::core::time::Duration::from_millis(#ms);));
    let restart = keys.restart.map(|word| {
        let word = Ident::new(word, Span::call_site());
        quote!(policy.restart = __mobula::Restart::#word;)
    });
    Some(quote! {
        fn restart_policy() -> __mobula::RestartPolicy {
            let mut policy = __mobula::RestartPolicy::default();
            #restarts_max
            #period
            #restart
            policy
        }
    })
}

fn place(actor: &Actor) -> Option<TokenStream> {
    let keys = &actor.keys;
    let named = [("num_cpus", &keys.num_cpus), ("num_gpus", &keys.num_gpus)];
    let named = named.into_iter().filter_map(|(name, amount)| Some((name.to_owned(), amount.clone()?)));
    let all: Vec<(String, Expr)> = named.chain(keys.resources.iter().flatten().cloned()).collect();
    if all.is_empty() {
        return None;
    }
    let (names, amounts): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    Some(quote! {
        fn place() -> __mobula::PlacementSpec {
            __mobula::PlacementSpec::default() #(.needing(#names, #amounts))*
        }
    })
}

fn spawn(actor: &Actor) -> TokenStream {
    let Constructor { vis, docs, signature, .. } = &actor.constructor;
    let (ty, names, types) = (&actor.ty, signature.names(), signature.types());
    let docs = if docs.is_empty() {
        quote!(#[doc = "Starts the actor: await it for its reference."])
    } else {
        quote!(#(#docs)*)
    };
    quote! {
        impl #ty {
            #docs
            #vis fn spawn(#(#names: #types),*) -> __mobula::Spawn<Self> {
                __mobula::Spawn::here((#(#names,)*))
            }
        }
    }
}

fn proxy(actor: &Actor) -> TokenStream {
    let (ty, proxy) = (&actor.ty, proxy_name(actor));
    let calls = actor.methods.iter().map(|method| call(actor, method));
    quote! {
        pub struct #proxy<A: __mobula::Actor>(__mobula::Address<A>);

        impl<A: __mobula::Actor> ::core::clone::Clone for #proxy<A> {
            fn clone(&self) -> Self {
                Self(self.0.clone())
            }
        }

        impl<A: __mobula::Actor> ::core::ops::Deref for #proxy<A> {
            type Target = __mobula::Address<A>;

            fn deref(&self) -> &__mobula::Address<A> {
                &self.0
            }
        }

        impl<A: __mobula::Actor> __mobula::Proxy<A> for #proxy<A> {
            fn new(address: __mobula::Address<A>) -> Self {
                Self(address)
            }

            fn address(&self) -> &__mobula::Address<A> {
                &self.0
            }
        }

        impl #proxy<#ty> {
            #(#calls)*
        }
    }
}

/// The proxy's method for one message.
fn call(actor: &Actor, method: &Method) -> TokenStream {
    let Method { vis, docs, conditions, signature, .. } = method;
    let (ty, name, message) = (&actor.ty, &signature.ident, message_name(actor, method));
    let (names, types) = (signature.names(), signature.types());
    let (value, error, flatten) = match &signature.returns {
        Returns::Value(value) => (quote!(#value), quote!(__mobula::NoError), quote!(::core::result::Result::Ok)),
        Returns::Stream(item) => {
            (quote!(__mobula::ReplyStream<#item>), quote!(__mobula::NoError), quote!(::core::result::Result::Ok))
        }
        Returns::Result(result) => {
            let error = error_of(result);
            (quote!(<#result as __mobula::Returned>::Value), error, quote!(__mobula::flatten))
        }
    };
    let make = local("make");
    quote! {
        #(#conditions)*
        #(#docs)*
        #vis fn #name(&self, #(#names: impl __mobula::IntoArg<#types>),*) -> __mobula::Call<'_, #ty, #message<#ty>, #value, #error> {
            let #make = |(#(#names,)*)| #message(#(#names,)* ::core::marker::PhantomData);
            __mobula::call(&self.0, (#(__mobula::IntoArg::into_arg(#names),)*).join(), #make, #flatten)
        }
    }
}

/// One method's message, its handler and its entry.
fn message(actor: &Actor, method: &Method) -> TokenStream {
    let Method { vis, conditions, cancel_drops, signature, .. } = method;
    let (ty, message) = (&actor.ty, message_name(actor, method));
    let (names, types) = (signature.names(), signature.types());
    let (reply, entry) = reply(actor, method, &message);
    let handle = handle(actor, method, &reply);
    let message_type = quote!(#message<#ty>);
    let cancel_drops = cancel_drops.then(|| {
        quote!(
            const CANCEL_DROPS: bool = true;
        )
    });
    quote! {
        #(#conditions)*
        #[derive(__mobula::serde::Serialize, __mobula::serde::Deserialize)]
        #[serde(crate = "::mobula::__private::serde", bound = "")]
        #vis struct #message<A>(#(#types,)* #[serde(skip)] ::core::marker::PhantomData<fn() -> A>);

        #(#conditions)*
        impl __mobula::Message for #message_type {
            type Reply = #reply;

            fn heap_bytes(&self) -> usize {
                let Self(#(#names,)* _) = self;
                0 #(+ __mobula::Weighed(#names).heap_bytes())*
            }
        }

        #(#conditions)*
        impl __mobula::Handler<#message_type> for #ty {
            #cancel_drops
            #handle
        }

        #(#conditions)*
        __mobula::inventory::submit! { #entry }
    }
}

/// The type of a method's reply, and the entry under which the other side finds its message.
fn reply(actor: &Actor, method: &Method, message: &Ident) -> (TokenStream, TokenStream) {
    // What rustc says of the reply it says of all that the entry names: at the reply's type.
    let at = match &method.signature.returns {
        Returns::Value(ty) | Returns::Result(ty) | Returns::Stream(ty) => ty.span(),
    };
    let (ty, message) = (respanned(&actor.ty, at), Ident::new(&message.to_string(), at));
    let name = type_name(actor);
    // The arguments' names are part of it: their order is what two builds must agree on.
    let arguments: Vec<_> = method.signature.names().iter().map(|name| name.unraw().to_string()).collect();
    let method_name = format!("::{}({})", method.signature.ident.unraw(), arguments.join(", "));
    let name = quote!(::core::concat!(#name, #method_name));
    match &method.signature.returns {
        Returns::Value(value) => {
            (quote!(#value), quote_spanned!(at=> __mobula::HandlerEntry::value::<#ty, #message<#ty>>(#name)))
        }
        Returns::Stream(item) => (
            quote!(__mobula::ReplyStream<#item>),
            quote_spanned!(at=> __mobula::HandlerEntry::stream::<#ty, #message<#ty>, #item>(#name)),
        ),
        Returns::Result(result) => {
            let error = error_of(result);
            (
                quote!(::core::result::Result<<#result as __mobula::Returned>::Value, #error>),
                quote_spanned!(at=> __mobula::HandlerEntry::value::<#ty, #message<#ty>>(#name)),
            )
        }
    }
}

/// The functions of `Handler`. A handler that is not async is called without making a future; one that takes `&self`
/// runs beside others where the actor has more than one place.
fn handle(actor: &Actor, method: &Method, reply: &TokenStream) -> TokenStream {
    let signature = &method.signature;
    let (ty, name, message) = (&actor.ty, &signature.ident, message_name(actor, method));
    let (received, ctx) = (local("message"), local("ctx"));
    let (names, pass, dot_await) = (signature.names(), signature.pass(&ctx), signature.dot_await());
    let call = quote!(<#ty>::#name(self, #(#pass),*) #dot_await);
    let answer = match &signature.returns {
        Returns::Value(_) => call,
        Returns::Stream(_) => quote!({ let items = #call; #ctx.stream(items) }),
        Returns::Result(result) => {
            let carrier = carrier(result, Carried::AsItIs);
            quote!(__mobula::Returned::into_result(#call).map_err(<#carrier as __mobula::Carry<_>>::carry))
        }
    };
    let arguments = quote!(#received: #message<#ty>, #ctx: &__mobula::Context<Self>);
    let body = quote! {
        let #message(#(#names,)* _) = #received;
        #answer
    };
    let shared = signature.exclusive == Some(false) && actor.keys.concurrency.is_some_and(|n| n > 1);
    match (shared, signature.is_async) {
        (true, _) => quote! {
            const MODE: __mobula::Mode = __mobula::Mode::Shared;

            async fn handle(&mut self, #arguments) -> #reply {
                __mobula::Handler::handle_shared(&*self, #received, #ctx).await
            }

            async fn handle_shared(&self, #arguments) -> #reply {
                #body
            }
        },
        (false, true) => quote! {
            async fn handle(&mut self, #arguments) -> #reply {
                #body
            }
        },
        (false, false) => quote! {
            const MODE: __mobula::Mode = __mobula::Mode::Sync;

            async fn handle(&mut self, #arguments) -> #reply {
                __mobula::Handler::handle_sync(self, #received, #ctx)
            }

            fn handle_sync(&mut self, #arguments) -> #reply {
                #body
            }
        },
    }
}

/// The type of the error that arrives.
fn error_of(result: &Type) -> TokenStream {
    let carrier = carrier(result, Carried::AsItIs);
    quote_spanned!(result.span()=> <#carrier as __mobula::Carry<<#result as __mobula::Returned>::Error>>::Error)
}

/// The name under which the type is registered.
fn type_name(actor: &Actor) -> TokenStream {
    let ty = &actor.ty;
    quote!(::core::concat!(::core::module_path!(), "::", ::core::stringify!(#ty)))
}

fn proxy_name(actor: &Actor) -> Ident {
    format_ident!("{}_Proxy", actor.ident)
}

/// `Counter_add` for the method `add` of `Counter`: it shows in dead letters.
fn message_name(actor: &Actor, method: &Method) -> Ident {
    format_ident!("{}_{}", actor.ident, method.signature.ident.unraw())
}

/// The type as if it were written at `span`.
fn respanned(ty: &Type, span: Span) -> TokenStream {
    let at = |mut token: TokenTree| {
        token.set_span(span);
        token
    };
    ty.to_token_stream().into_iter().map(at).collect()
}

/// A name that meets none of the user's arguments.
fn local(name: &str) -> Ident {
    Ident::new(name, Span::mixed_site())
}
